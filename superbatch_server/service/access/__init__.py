"""Who may ask for what, and how much: tokens and their scopes, sessions, guards, limits, sizes of bodies."""
