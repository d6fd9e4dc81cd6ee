"""Destinations carry plans out: the only place that writes, with `nextn.durable`."""
