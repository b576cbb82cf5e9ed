"""GoogLeNet's detection system (section 8): regions of proposals, classified and measured as ILSVRC's task does."""
