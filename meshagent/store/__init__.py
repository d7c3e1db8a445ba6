"""The stores: where documents, the trust bundle and the catalog live."""
