"""Multipart bodies of uploaded files."""

import secrets


def multipart(content, filename="book.txt", purpose="fine-tune"):
    """Return the body and the headers of a request that uploads a file; content is bytes."""
    boundary = secrets.token_hex(16)
    disposition = b"--%b\r\nContent-Disposition: form-data; " % boundary.encode()
    purpose_part = disposition + b'name="purpose"\r\n\r\n%b\r\n' % purpose.encode()
    file_part = disposition + b'name="file"; filename="%b"\r\n\r\n%b\r\n' % (filename.encode(), content)
    body = purpose_part + file_part + b"--%b--\r\n" % boundary.encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}
