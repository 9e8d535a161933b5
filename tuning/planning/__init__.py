"""What a sweep will take, before it is begun: a short measurement, and a simulation."""
