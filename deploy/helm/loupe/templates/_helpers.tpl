{{- define "loupe.name" -}}
{{- printf "%s-loupe" .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "loupe.selector" -}}
app.kubernetes.io/name: loupe
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "loupe.labels" -}}
{{ include "loupe.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end -}}

{{- define "loupe.image" -}}
image: {{ printf "%sloupe-%s:%s" .root.Values.image.registry .component (.root.Values.image.tag | default .root.Chart.AppVersion) | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
{{- end -}}

{{- define "loupe.redisPasswordSecret" -}}
{{- .Values.redis.passwordSecret | default (printf "%s-redis" (include "loupe.name" .)) -}}
{{- end -}}

{{- define "loupe.needsRedisPassword" -}}
{{- if or (not .Values.redis.url) .Values.redis.passwordSecret }}true{{ end -}}
{{- end -}}

{{- define "loupe.redisUrl" -}}
{{- $url := .Values.redis.url | default (printf "redis://%s-redis:6379/0" (include "loupe.name" .)) -}}
{{- $url }}
{{- if .Values.redis.caSecret }}
{{- ternary "&" "?" (contains "?" $url) }}ssl_ca_certs=/run/secrets/redis-ca/ca.crt
{{- end -}}
{{- end -}}

{{- define "loupe.claim" -}}
{{- $storage := index .root.Values.storage .name -}}
{{- $storage.existingClaim | default (printf "%s-%s" (include "loupe.name" .root) .name) -}}
{{- end -}}

{{/* Pods that the standard "restricted" admits. */}}
{{- define "loupe.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "loupe.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* Spreads the pods of a component over nodes. */}}
{{- define "loupe.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{ include "loupe.selector" . | nindent 8 }}
{{- end -}}

{{/* Variables of service and workers. */}}
{{- define "loupe.queueEnvironment" -}}
- {name: LOUPE_HOST, value: "0.0.0.0"}
- {name: LOUPE_DATA_DIR, value: /var/lib/loupe/data}
- name: LOUPE_REDIS_URL
  value: {{ include "loupe.redisUrl" . | quote }}
{{- if include "loupe.needsRedisPassword" . }}
- {name: LOUPE_REDIS_PASSWORD_FILE, value: /run/secrets/redis/password}
{{- end }}
{{ include "loupe.settings" . }}
{{- end -}}

{{- define "loupe.settings" -}}
{{- range $name, $value := .Values.settings }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end -}}

{{- define "loupe.secretEnvironment" -}}
{{- with .Values.settingsSecrets }}
envFrom:
{{- range . }}
  - secretRef: {name: {{ . }}}
{{- end }}
{{- end }}
{{- end -}}

{{/* `pictures`: whether a program may write to them. */}}
{{- define "loupe.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: models, mountPath: /var/lib/loupe/store}
- {name: data, mountPath: /var/lib/loupe/data}
{{- if .root.Values.storage.pictures.existingClaim }}
- {name: pictures, mountPath: /data, readOnly: {{ .readOnly }}}
{{- end }}
{{- if and .redis (include "loupe.needsRedisPassword" .root) }}
- {name: redis-password, mountPath: /run/secrets/redis, readOnly: true}
{{- end }}
{{- if and .redis .root.Values.redis.caSecret }}
- {name: redis-ca, mountPath: /run/secrets/redis-ca, readOnly: true}
{{- end }}
{{- end -}}

{{- define "loupe.volumes" -}}
- {name: tmp, emptyDir: {}}
- name: models
  persistentVolumeClaim: {claimName: {{ include "loupe.claim" (dict "root" .root "name" "models") }}}
- name: data
  persistentVolumeClaim: {claimName: {{ include "loupe.claim" (dict "root" .root "name" "data") }}}
{{- with .root.Values.storage.pictures.existingClaim }}
- name: pictures
  persistentVolumeClaim: {claimName: {{ . }}}
{{- end }}
{{- if and .redis (include "loupe.needsRedisPassword" .root) }}
- name: redis-password
  secret: {secretName: {{ include "loupe.redisPasswordSecret" .root }}, defaultMode: 0440}
{{- end }}
{{- if and .redis .root.Values.redis.caSecret }}
- name: redis-ca
  secret: {secretName: {{ .root.Values.redis.caSecret }}, defaultMode: 0440}
{{- end }}
{{- end -}}
