// A zip archive of files, uncompressed: pictures are compressed already.
// Source: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT

export const MAX_FILES = 65_535; // of an archive without the extension for large ones
export const MAX_BYTES = 2 ** 32 - 1;

const UTF8_NAMES = 1 << 11;
const VERSION = 20;
const NEW_YEAR_1980 = 0x21; // the first date that a zip archive knows
const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

async function checksum(file) {
  let value = 0xffffffff;
  const reader = file.stream().getReader();
  for (;;) {
    const { done, value: chunk } = await reader.read();
    if (done) return (value ^ 0xffffffff) >>> 0;
    for (const byte of chunk) value = CRC_TABLE[(value ^ byte) & 255] ^ (value >>> 8);
  }
}

/** Return bytes of little-endian numbers, given as `[size, value]`. */
function numbers(...fields) {
  const view = new DataView(new ArrayBuffer(fields.reduce((sum, [size]) => sum + size, 0)));
  let at = 0;
  for (const [size, value] of fields) {
    if (size === 2) view.setUint16(at, value, true);
    else view.setUint32(at, value, true);
    at += size;
  }
  return view;
}

/**
 * Return an archive of files `{path, file}`; the browser reads them when it sends it.
 *
 * @param onProgress Called with the number of files that have been read.
 */
export async function pack(files, onProgress) {
  const content = [];
  const directory = [];
  let offset = 0;
  for (const [number, { path, file }] of files.entries()) {
    const name = new TextEncoder().encode(path);
    const crc = await checksum(file);
    const common = [
      [2, VERSION], [2, UTF8_NAMES], [2, 0], [2, 0], [2, NEW_YEAR_1980],
      [4, crc], [4, file.size], [4, file.size], [2, name.length], [2, 0],
    ];
    content.push(numbers([4, 0x04034b50], ...common), name, file);
    const entry = [[4, 0x02014b50], [2, VERSION], ...common];
    directory.push(numbers(...entry, [2, 0], [2, 0], [2, 0], [4, 0], [4, offset]), name);
    offset += 30 + name.length + file.size;
    onProgress(number + 1);
  }
  const size = directory.reduce((sum, part) => sum + part.byteLength, 0);
  const count = files.length;
  const end = numbers(
    [4, 0x06054b50], [2, 0], [2, 0], [2, count], [2, count], [4, size], [4, offset], [2, 0],
  );
  return new Blob([...content, ...directory, end], { type: "application/zip" });
}
