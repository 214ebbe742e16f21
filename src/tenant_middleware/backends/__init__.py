"""Where things are kept: one module or folder for each service, behind the protocols of the other packages."""
