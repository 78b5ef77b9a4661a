"""What a run is made of at run time: the log, blobs, deciders, workers, policies and agents."""
