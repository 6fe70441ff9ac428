"""Results of image analysis as DICOM objects, and their delivery."""
