from pathlib import Path
def write_document(found, document, plots):
    pass
