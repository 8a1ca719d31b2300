"""Who else can run a network here, and how many times as fast ours is."""
