"""From standard ``nn`` modules to branches of a tail."""
