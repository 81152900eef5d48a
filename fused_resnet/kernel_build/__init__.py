"""How ``setup.py`` builds the kernels: what is built and why not, with which commands, and ninja, which runs them."""
