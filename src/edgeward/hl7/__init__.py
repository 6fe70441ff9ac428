"""HL7 v2 on the wire: the encoding (ER7), its character sets and value types, MLLP framing, acknowledgements."""
