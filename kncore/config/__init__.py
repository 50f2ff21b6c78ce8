"""One module per ConfigMap: text in, frozen dataclass out."""
