"""Tasks from elsewhere: task directories of SIA and tasks of Inspect, as task folders of evolog."""
