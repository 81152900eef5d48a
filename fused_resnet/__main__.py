"""``python -m fused_resnet build`` and ``python -m fused_resnet doctor``: see `fused_resnet.command_line`."""

import sys

from .command_line import main

sys.exit(main())
