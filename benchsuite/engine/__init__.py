"""Where jobs run: the store, workers on slots, the schedule, what it shows, and the machine it runs on."""
