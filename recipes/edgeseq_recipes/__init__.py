"""The lecture's claims as recipes: each trains what the claim is about, measures it, draws it and exports it."""
