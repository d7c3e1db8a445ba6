"""`meshagent policy test --live`: the cases as real requests through real Envoys of a mesh that is made for them."""
