"""Keys, identity, the vault and the journal."""
