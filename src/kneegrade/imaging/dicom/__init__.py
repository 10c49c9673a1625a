"""DICOM files to grey levels and header values; most of it runs in the decoding process. `dicom_file` comes first."""
