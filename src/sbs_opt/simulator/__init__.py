"""Driver 1: a virtual clock over barrier-synchronised prefill and decode instances. No decision is taken here."""
