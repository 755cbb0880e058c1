"""The whole drive as a person uses it: real mounts, real farmers, real crashes."""
