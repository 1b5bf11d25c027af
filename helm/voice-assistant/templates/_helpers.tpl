{{/* `voice-api`: the name of a part's objects. Takes (dict "root" $ "part" "api"). */}}
{{- define "voice.name" -}}
{{ .root.Release.Name }}-{{ .part }}
{{- end }}

{{/*
The parts of this track by name, each with its values: what all workloads have in common (accounts, scaling,
budgets, monitors) ranges over them. LiveKit is no part of a canary, and never moves with a release.
*/}}
{{- define "voice.parts" -}}
{{- $parts := dict "api" .Values.api "agent" .Values.agent }}
{{- if .Values.images.web }}{{ $_ := set $parts "web" .Values.web }}{{ end }}
{{- if include "voice.livekit" . }}{{ $_ := set $parts "livekit" .Values.livekit.server }}{{ end }}
{{- toYaml $parts }}
{{- end }}

{{/* Whether this track runs LiveKit. */}}
{{- define "voice.livekit" -}}
{{- if and .Values.livekit.server.enabled (eq .Values.track "stable") }}yes{{ end }}
{{- end }}

{{/* The namespace of a part's objects. */}}
{{- define "voice.namespace" -}}
{{- eq .part "livekit" | ternary .root.Values.livekit.server.namespace .root.Release.Namespace }}
{{- end }}

{{/* What selects a part's pods: never changes, and never meets those of the other track. */}}
{{- define "voice.selector" -}}
app.kubernetes.io/name: {{ .part }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
va.dev/track: {{ .root.Values.track }}
{{- end }}

{{/* The pod of `helm test`: no track's pod, or it would be counted as one. */}}
{{- define "voice.testSelector" -}}
app.kubernetes.io/name: test
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The pod of the guard: no track's pod either. */}}
{{- define "voice.guardSelector" -}}
app.kubernetes.io/name: guard
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The pod of the migrations: no track's pod either. */}}
{{- define "voice.migrateSelector" -}}
app.kubernetes.io/name: migrate
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "voice.labels" -}}
{{ include "voice.selector" . }}
va.dev/release: {{ .root.Values.release | quote }}
{{ include "voice.commonLabels" .root }}
{{- end }}

{{- define "voice.commonLabels" -}}
app.kubernetes.io/part-of: voice-assistant
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* Of a pod. Takes (dict "root" $ "part" "api" "values" .Values.api). */}}
{{- define "voice.podLabels" -}}
{{ include "voice.labels" . }}
{{- if .values.identity }}
azure.workload.identity/use: "true"
{{- end }}
{{- end }}

{{/* Of a pod. Takes (dict "root" $ "port" 8000). */}}
{{- define "voice.podAnnotations" -}}
{{- if .root.Values.monitoring.annotations -}}
prometheus.io/scrape: "true"
prometheus.io/port: {{ int64 .port | quote }}
prometheus.io/path: /metrics
{{- end }}
{{- end }}

{{- define "voice.image" -}}
{{ .repository }}@{{ .digest }}
{{- end }}

{{- define "voice.podSecurity" -}}
runAsNonRoot: true
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "voice.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
seccompProfile: {type: RuntimeDefault}
capabilities: {drop: [ALL]}
{{- end }}

{{/* The nodes that a part may run on, and before whom. Takes (dict "root" $ "values" .Values.api). */}}
{{- define "voice.nodes" -}}
{{- with .values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClass }}
priorityClassName: {{ include "voice.own" (dict "root" $.root "name" . "made" (and $.root.Values.priorities.create (has . (list "voice-calls" "voice-requests")))) }}
{{- end }}
{{- end }}

{{/*
The name of what each track makes for itself. The canary is the first of a release: what is new in it, a Secret or a
priority class, is in no stable yet. Takes (dict "root" $ "name" "voice-redis" "made" true).
*/}}
{{- define "voice.own" -}}
{{- if and .made (eq .root.Values.track "canary") }}{{ .root.Release.Name }}-{{ trimPrefix "voice-" .name }}{{ else }}{{ .name }}{{ end }}
{{- end }}

{{/* A Secret's name: the track's own where the chart fetches it from a vault. Takes (dict "root" $ "name" "voice-redis"). */}}
{{- define "voice.secret" -}}
{{- include "voice.own" (dict "root" .root "name" .name "made" (and (eq .root.Values.secrets.provider "external-secrets") (hasKey .root.Values.secrets.objects .name))) }}
{{- end }}

{{/* Replicas of one part on different zones and nodes where there are several, each rollout by itself. */}}
{{- define "voice.spread" -}}
{{- range $key := list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
- maxSkew: 1
  topologyKey: {{ $key }}
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{- include "voice.selector" $ | nindent 6 }}
  matchLabelKeys: [pod-template-hash]
{{- end }}
{{- end }}

{{/*
Until a pod that was told to stop is killed: what the values say, or as long as it needs; less is refused.
Takes (dict "part" "api" "values" .Values.api "needs" 25).
*/}}
{{- define "voice.grace" -}}
{{- $least := add .needs 5 | int }}
{{- $given := int .values.graceSeconds }}
{{- if and $given (lt $given $least) }}
{{- fail (printf "%s.graceSeconds is %d: the drain needs %d, or calls and requests are cut off" .part $given $least) }}
{{- end }}
{{- $given | default $least }}
{{- end }}

{{/* How many pods, unless an autoscaler decides. Takes the part's values. */}}
{{- define "voice.replicas" -}}
{{- if eq .autoscaling.by "none" }}
replicas: {{ int .replicas }}
{{- end }}
{{- end }}

{{/* How many pods there are at least. Takes the part's values. */}}
{{- define "voice.least" -}}
{{- eq .autoscaling.by "none" | ternary .replicas .autoscaling.min | int }}
{{- end }}

{{/*
The name under which LiveKit knows this track's agents, and which this track's api asks for: the share of calls
that a canary's agents get is then the share of sessions that the canary's api made. The namespace is in it
because several environments may share one LiveKit, and the release because a canary's agents stay for a while.
*/}}
{{- define "voice.agentName" -}}
{{ .Release.Namespace }}-{{ .Release.Name }}{{ if eq .Values.track "canary" }}-{{ .Values.release }}{{ end }}
{{- end }}

{{/* A value as text, whole numbers in full: helm's own text of 1000000 is 1e+06. */}}
{{- define "voice.text" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{/* The variables that api and agent share, after those that the environment adds. */}}
{{- define "voice.env" -}}
{{- range $name, $value := .extra }}
- {name: {{ $name }}, value: {{ include "voice.text" $value | quote }}}
{{- end }}
- {name: AGENT_NAME, value: {{ include "voice.agentName" .root }}}
- {name: VA_TRACK, value: {{ .root.Values.track }}}
- {name: VA_RELEASE, value: {{ .root.Values.release | quote }}}
- {name: LIVEKIT_URL, value: {{ .root.Values.livekit.url | quote }}}
{{- include "voice.livekitKeys" .root }}
{{- end }}

{{/* Where pods find LiveKit's host, if not as names say: the certificate there is for that name. */}}
{{- define "voice.livekitHost" }}
{{- with .Values.livekit.address }}
hostAliases: [{ip: {{ . }}, hostnames: [{{ regexReplaceAll ":[0-9]+$" (urlParse $.Values.livekit.url).host "" }}]}]
{{- end }}
{{- end }}

{{- define "voice.livekitKeys" }}
{{- range $key := list "LIVEKIT_API_KEY" "LIVEKIT_API_SECRET" }}
- name: {{ $key }}
  valueFrom: {secretKeyRef: {name: {{ include "voice.secret" (dict "root" $ "name" $.Values.livekit.secret) }}, key: {{ $key }}}}
{{- end }}
{{- end }}

{{- define "voice.redisPassword" }}
{{- with .Values.redis.secret }}
- name: REDIS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "voice.secret" (dict "root" $ "name" .) }}, key: REDIS_PASSWORD}}
{{- end }}
{{- end }}

{{/* How PostgreSQL is reached. Takes (dict "root" $ "user" "voice"). */}}
{{- define "voice.database" }}
{{- with .root.Values.database }}
- {name: DATABASE_URL, value: {{ .url | quote }}}
- {name: DATABASE_USER, value: {{ $.user | quote }}}
- {name: DATABASE_TLS, value: {{ .tls | quote }}}
- {name: DATABASE_ENTRA, value: {{ .entra | quote }}}
{{- with .secret }}
- name: DATABASE_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ . }}, key: DATABASE_PASSWORD}}
{{- end }}
{{- end }}
{{- end }}

{{/* The driver fills the Secrets only while a pod mounts it. */}}
{{- define "voice.secretMount" -}}
{{- if eq .Values.secrets.provider "csi" }}
- {name: vault, mountPath: /mnt/vault, readOnly: true}
{{- end }}
{{- end }}

{{/* Takes (dict "root" $ "part" "api"). */}}
{{- define "voice.secretVolume" -}}
{{- if eq .root.Values.secrets.provider "csi" }}
- name: vault
  csi:
    driver: secrets-store.csi.k8s.io
    readOnly: true
    volumeAttributes: {secretProviderClass: {{ include "voice.name" . }}}
{{- end }}
{{- end }}
