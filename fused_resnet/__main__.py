"""``python -m fused_resnet doctor``: see `fused_resnet.doctor`."""

import sys

from .doctor.command import main

sys.exit(main())
