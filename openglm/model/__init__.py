"""The network and nothing else: it knows neither training, nor serving, nor distribution."""
