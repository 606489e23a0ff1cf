{{- define "fullsend.name" -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else if contains "fullsend" .Release.Name -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-fullsend" .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end -}}
{{- end -}}

{{- define "fullsend.account" -}}
{{ .Values.serviceAccount.name | default (printf "%s-operator" (include "fullsend.name" .)) }}
{{- end -}}

{{- define "fullsend.image" -}}
{{- $image := .Values.image -}}
{{- with $image.registry }}{{ . }}/{{ end }}{{ $image.repository }}
{{- if or $image.tag (not $image.digest) }}:{{ $image.tag | default .Chart.AppVersion }}{{ end }}
{{- with $image.digest }}@{{ . }}{{ end }}
{{- end -}}

{{- define "fullsend.selector" -}}
app.kubernetes.io/name: fullsend
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "fullsend.labels" -}}
{{ include "fullsend.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: fullsend
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "fullsend.databaseSecret" -}}
{{- if .Values.postgresql.embedded -}}
{{ .Values.postgresql.existingSecret | default (printf "%s-postgresql-dsn" (include "fullsend.name" .)) }}
{{- else -}}
{{ .Values.database.existingSecret }}
{{- end -}}
{{- end -}}

{{- define "fullsend.databaseKey" -}}
{{ ternary "dsn" .Values.database.key .Values.postgresql.embedded }}
{{- end -}}

{{- define "fullsend.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "fullsend.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* What planners and senders get: the image's pull policy and secrets, and over them the administrator's overrides. */}}
{{- define "fullsend.podOverrides" -}}
{{- $over := deepCopy .Values.senders.podOverrides -}}
{{- $spec := $over.spec | default dict -}}
{{- $ours := dict "name" "fullsend" "imagePullPolicy" .Values.image.pullPolicy -}}
{{- $containers := list -}}
{{- range $spec.containers -}}
{{- if eq .name "fullsend" }}{{ $ours = mergeOverwrite $ours . }}{{ else }}{{ $containers = append $containers . }}{{ end -}}
{{- end -}}
{{- $_ := set $spec "containers" (prepend $containers $ours) -}}
{{- if and .Values.imagePullSecrets (not (hasKey $spec "imagePullSecrets")) -}}
{{- $_ := set $spec "imagePullSecrets" .Values.imagePullSecrets -}}
{{- end -}}
{{- toYaml (set $over "spec" $spec) -}}
{{- end -}}
