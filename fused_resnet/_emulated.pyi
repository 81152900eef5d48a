# The same binding as _C, compiled for the emulator.

from ._C import *
