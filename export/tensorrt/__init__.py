"""The builder's side of TensorRT: profiles, options, log, progress, plan and sidecar; runs no engine."""
