"""The DHT, made of real nodes on the loopback."""
