"""Runs the ```bash blocks of a README, in order, in one shell that stops at the first failure."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

text = Path(sys.argv[1]).read_text()
blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
if not blocks:
    sys.exit(f"{sys.argv[1]}: no ```bash block to run")
sys.exit(subprocess.run(["bash", "-euxo", "pipefail", "-c", "\n".join(blocks)]).returncode)
