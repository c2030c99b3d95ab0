{{- define "oriva-hub.name" -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "oriva-hub.labels" -}}
app.kubernetes.io/name: oriva-hub
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "oriva-hub.selector" -}}
app.kubernetes.io/name: oriva-hub
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "oriva-hub.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* Secrets are files: they stand neither in the environment nor in `kubectl describe`. */}}
{{- define "oriva-hub.secretEnv" -}}
- { name: ORIVA_HUB__AUTH__ADMIN_KEY_FILE, value: /secrets/admin-key }
{{- if eq .Values.store "postgres" }}
- { name: DATABASE_URL_FILE, value: /secrets/database-url }
- { name: ORIVA_HUB__AUTH__TOKEN_SECRET_FILE, value: /secrets/token-secret }
- { name: ORIVA_HUB__AUTH__ENCRYPTION_KEY_FILE, value: /secrets/encryption-key }
{{- if .Values.redis }}
- { name: REDIS_URL_FILE, value: /secrets/redis-url }
{{- end }}
{{- end }}
{{- end -}}

{{- define "oriva-hub.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{/* The pod of a node, in either shape. */}}
{{- define "oriva-hub.pod" -}}
metadata:
  labels:
    {{- include "oriva-hub.selector" . | nindent 4 }}
  {{- with .Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: {{ add .Values.stop.preStopSleep .Values.stop.drainDelay .Values.stop.shutdownTimeout 5 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    seccompProfile: { type: RuntimeDefault }
  containers:
    - name: hub
      image: {{ include "oriva-hub.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve]
      ports:
        - { name: http, containerPort: 8080 }
      env:
        - { name: ORIVA_HUB__SERVER__BIND, value: "0.0.0.0:8080" }
        - { name: ORIVA_HUB__SERVER__DRAIN_DELAY_SECONDS, value: {{ .Values.stop.drainDelay | quote }} }
        - { name: ORIVA_HUB__SERVER__SHUTDOWN_TIMEOUT_SECONDS, value: {{ .Values.stop.shutdownTimeout | quote }} }
        - { name: ORIVA_HUB__LOG__FORMAT, value: json }
        - { name: ORIVA_HUB__LOG__EVENTS, value: "false" }
        {{- if eq .Values.store "sqlite" }}
        - { name: ORIVA_HUB__DATABASE__URL, value: "sqlite:///data/hub.db" }
        {{- end }}
        {{- include "oriva-hub.secretEnv" . | nindent 8 }}
        {{- range $name, $value := .Values.settings }}
        - { name: {{ $name }}, value: {{ $value | quote }} }
        {{- end }}
      # Where its store does not answer at the start it exits, and is started again. Later it waits for its store, and is not
      # restarted for it: that is what /readyz is for. Before it listens an embedded store is migrated, which may take an hour
      # where tables are written anew.
      startupProbe:
        httpGet: { path: /healthz, port: http }
        periodSeconds: 2
        failureThreshold: {{ if eq .Values.store "sqlite" }}1800{{ else }}60{{ end }}
      livenessProbe:
        httpGet: { path: /healthz, port: http }
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      readinessProbe:
        httpGet: { path: /readyz, port: http }
        periodSeconds: 2
        timeoutSeconds: 3
        failureThreshold: 1
      lifecycle:
        preStop:
          sleep: { seconds: {{ .Values.stop.preStopSleep }} }
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        {{- include "oriva-hub.securityContext" . | nindent 8 }}
      volumeMounts:
        - { name: secrets, mountPath: /secrets, readOnly: true }
        {{- if eq .Values.store "sqlite" }}
        - { name: data, mountPath: /data }
        {{- end }}
  volumes:
    - name: secrets
      secret: { secretName: {{ .Values.secretName }}, defaultMode: 0440 }
  {{- if and .Values.topologySpread (eq .Values.store "postgres") }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "oriva-hub.selector" . | nindent 10 }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
