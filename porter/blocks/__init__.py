"""The blocks that networks are made of: plain numbers in, neutral graph out; no device and no config is known here."""
