-- Run each command of the queue on keys of no job. Return those that the user may not run; other
-- errors do not matter.
local commands = {
    {'HSET', job, 'field', 0}, {'HGET', job, 'field'}, {'HGETALL', job}, {'HVALS', job},
    {'HINCRBY', job, 'field', 1}, {'HSCAN', job, 0}, {'HDEL', job, 'field'},
    {'XADD', steps, '*', 'step', ''}, {'XGROUP', 'CREATE', steps, 'group', '0'},
    {'XREADGROUP', 'GROUP', 'group', 'worker', 'STREAMS', steps, '>'},
    {'XPENDING', steps, 'group'}, {'XCLAIM', steps, 'group', 'worker', 0, '0-1'},
    {'XAUTOCLAIM', steps, 'group', 'worker', 0, '0'}, {'XACK', steps, 'group', '0-1'},
    {'XDEL', steps, '0-1'}, {'XLEN', steps}, {'XRANGE', steps, '-', '+'},
    {'XINFO', 'GROUPS', steps},
    {'ZADD', delayed, 0, ''}, {'ZCARD', delayed}, {'ZRANGE', delayed, 0, 0},
    {'ZRANGEBYSCORE', delayed, 0, 0}, {'ZREVRANGEBYSCORE', delayed, 0, 0},
    {'ZREMRANGEBYRANK', delayed, 0, 0}, {'ZREMRANGEBYSCORE', delayed, 0, 0}, {'ZREM', delayed, ''},
    {'LPUSH', kept, ''}, {'RPUSH', kept, ''}, {'LMOVE', kept, kept, 'LEFT', 'RIGHT'},
    {'LLEN', kept}, {'LINDEX', kept, 0}, {'LRANGE', kept, 0, 0}, {'LREM', kept, 0, ''},
    {'LTRIM', kept, 0, 0},
    {'RENAME', kept, staged}, {'EXPIRE', job, 1}, {'TIME'},
    {'UNLINK', unpack(KEYS)},
}
local missing = {}
for _, command in ipairs(commands) do
    local reply = redis.pcall(unpack(command))
    local problem = type(reply) == 'table' and reply['err'] or ''
    -- The second one is Redis 6's.
    if problem:find('ACL failure') or problem:find("user executing the script can't") then
        table.insert(missing, command[1])
    end
end
return missing
