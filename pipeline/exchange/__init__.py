"""Objects over the network: DICOMweb, DIMSE and public buckets."""
