"""The papers' protocols and tables on engines; knows torch only to open a checkpoint."""
