{{- define "mcp-auth.fullname" -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}{{ end }}
{{- end }}
{{- end }}

{{- define "mcp-auth.operator" -}}{{ include "mcp-auth.fullname" . }}-operator{{- end }}

{{- define "mcp-auth.serviceAccount" -}}
{{- default (include "mcp-auth.operator" .) .Values.serviceAccount.name }}
{{- end }}

{{- define "mcp-auth.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 }}
app.kubernetes.io/instance: {{ .Release.Name | trunc 63 }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "mcp-auth.labels" -}}
{{ include "mcp-auth.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* The name of an image: (dict "of" "operator" "image" .Values.operator.image "default" .Chart.AppVersion) */}}
{{- define "mcp-auth.image" -}}
{{- $repository := required (printf "set %s.image.repository to where you pushed the image to; see \"Use it\" in the README" .of) .image.repository }}
{{- if .image.digest }}{{ $repository }}@{{ .image.digest }}
{{- else }}{{ $repository }}:{{ default .default .image.tag }}{{ end }}
{{- end }}

{{/* Rules on what the operator reads and writes in the namespaces it serves. */}}
{{- define "mcp-auth.namespacedRules" -}}
- apiGroups: [mcpauth.dev]
  resources: [mcpserverauths]
  verbs: [get, list, watch]
- apiGroups: [mcpauth.dev]
  resources: [mcpserverauths/status]
  verbs: [patch]
# The operator reads single ones by name, where a resource refers to them, and no others; RBAC cannot say that of names
# that are not known yet. With watchNamespaces the right ends at those namespaces.
- apiGroups: [""]
  resources: [secrets, configmaps]
  verbs: [list, watch]
# Metadata only.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
