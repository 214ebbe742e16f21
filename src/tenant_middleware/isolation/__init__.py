"""What a tenant may see: documents, conversations, cached answers, provider ids; protocols and the rules they keep."""
