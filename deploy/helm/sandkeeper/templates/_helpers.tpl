{{- define "sandkeeper.secret" -}}
{{- .Values.token.existingSecret | default (printf "%s-token" .Release.Name) -}}
{{- end -}}
