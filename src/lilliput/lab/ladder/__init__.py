"""What each of PanGu-π Pro's four components buys: `run` is the whole, the files beside it its parts."""
