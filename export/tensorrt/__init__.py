"""The builder's side of TensorRT: its options, profiles, build, progress and sidecar; runs no engine."""
