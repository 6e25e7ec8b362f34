"""The CIS490 training fleet: `fleet` coordinates, `trainer` trains, `dataset` is the data contract both read."""
