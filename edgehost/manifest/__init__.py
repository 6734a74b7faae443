"""Function manifests: the values (`model`) and the readers of `function.toml` and of Nuclio's `function.yaml`."""
