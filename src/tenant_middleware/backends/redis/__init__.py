"""Redis for several workers: admission, conversations, exact answers. Import the module of the concern you need."""
