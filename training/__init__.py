"""The CIS490 training fleet: `fleet` coordinates, `trainer` trains, `contracts` is what both must agree on."""
