"""Google Cloud Storage on this machine, which fails as buckets do.

The emulator speaks the protocol on loopback, to gcsfs. TensorFlow's own client
knows no other host than Google's: it is told that this one is its proxy, and
whose certificates to trust.
"""

import collections
import contextlib
import http
import io
import itertools
import json
import os
import re
import socket
import ssl
import struct

import pytest
import trustme
from gcp_storage_emulator import server as emulator
from gcp_storage_emulator.handlers import objects

FAULTS = (429, 'reset after', 503, 'reset before')


class Weather:
  """What befalls requests, but those of the tests themselves.

  Attributes:
    every: one request of so many fails, by each fault in turn; 0: none.
    faults: statuses, and 'reset before' and 'reset after' it is done.
    known: names of the only objects that are listed; None: all are.
    seen: fault -> how often.
  """

  def __init__(self):
    self.clear()

  def clear(self):
    self.every, self.faults, self.known = 0, FAULTS, None
    self.seen = collections.Counter()
    self._numbers = itertools.count(1)

  def fault(self):
    """The fault of the next request, or None."""
    if not self.every or (number := next(self._numbers)) % self.every:
      return None
    fault = self.faults[number // self.every % len(self.faults)]
    self.seen[fault] += 1
    return fault

  def list_objects(self, request, response, storage):
    """As the emulator, of the objects that are known."""
    objects.ls(request, response, storage)
    own = request.get_header('User-Agent', '').startswith('Python-urllib')
    if self.known is None or own or response.status != http.HTTPStatus.OK:
      return
    found = json.loads(response._content)
    items = [item for item in found['items'] if item['name'] in self.known]
    prefixes = [
      prefix
      for prefix in found['prefixes']
      if any(name.startswith(prefix) for name in self.known)
    ]
    self.seen['stale'] += (items, prefixes) != (
      found['items'],
      found['prefixes'],
    )
    response.json({**found, 'items': items, 'prefixes': prefixes})


class _Router(emulator.Router):
  def handle(self, method):
    handler, weather = self._request_handler, self._request_handler.weather
    if handler.headers.get('User-Agent', '').startswith('Python-urllib'):
      super().handle(method)
      return
    fault = weather.fault()
    if isinstance(fault, int):
      # What was sent is read, or the answer would be lost.
      handler.rfile.read(int(handler.headers.get('Content-Length', 0)))
      said = {'error': {'code': fault, 'message': 'Try again.\nOr do not.'}}
      answer = emulator.Response(handler)
      answer.status = http.HTTPStatus(fault)
      answer.json(said)
      answer.close()
      return
    if fault != 'reset before':
      wfile, handler.wfile = handler.wfile, io.BytesIO()
      super().handle(method)
      answer, handler.wfile = handler.wfile.getvalue(), wfile
    if fault:
      # A socket that lingers for no time resets when it is closed.
      linger = struct.pack('ii', 1, 0)
      handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
      handler.connection.close()
    else:
      handler.wfile.write(answer)


class _Handler(emulator.RequestHandler):
  weather: Weather
  tls: ssl.SSLContext

  def do_CONNECT(self):  # noqa: N802
    """A tunnel to Google ends here."""
    self.send_response(http.HTTPStatus.OK)
    self.end_headers()
    with self.tls.wrap_socket(
      self.connection, server_side=True
    ) as self.request:
      self.setup()
      self.handle()

  def parse_request(self):
    if not super().parse_request():
      return False
    # A proxy is told the host, too.
    self.path = re.sub('^http://[^/]*', '', self.path)
    if 'Transfer-Encoding' in self.headers:
      # TensorFlow's client states both, of which this one counts.
      del self.headers['Content-Length']
    return True


def _refuse(request, response, storage):
  del request, storage
  response.status = http.HTTPStatus.METHOD_NOT_ALLOWED


def _resume(request, response, storage):
  """As the emulator; where nothing has come, it claims that a byte has."""
  objects.upload_partial(request, response, storage)
  session = request.query['upload_id'][0]
  if response.status == 308 and not storage.get_resumable_byte_count(session):
    response._headers.pop('Range')


@contextlib.contextmanager
def serve(certificate):
  """Yields the port and the weather.

  Args:
    certificate: path where the one is written that clients have to trust.
  """
  authority = trustme.CA()
  authority.cert_pem.write_to_path(certificate)
  tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
  hosts = ('www.googleapis.com', 'storage.googleapis.com')
  authority.issue_cert(*hosts).configure_cert(tls)
  weather = Weather()
  with pytest.MonkeyPatch.context() as patch:
    # Unknown, an atomic rename is tried for a minute.
    handlers = (
      (r'.*/moveTo/.*', {'POST': _refuse}),
      (
        r'/storage/v1/b/(?P<bucket_name>[^/]+)/o',
        {'GET': weather.list_objects},
      ),
      (
        r'/upload/storage/v1/b/(?P<bucket_name>[^/]+)/o',
        {'POST': objects.insert, 'PUT': _resume},
      ),
    )
    patch.setattr(emulator, 'HANDLERS', (*handlers, *emulator.HANDLERS))
    patch.setattr(emulator, 'Router', _Router)
    patch.setattr(_Handler, 'weather', weather, raising=False)
    patch.setattr(_Handler, 'tls', tls, raising=False)
    patch.setattr(emulator, 'RequestHandler', _Handler)
    server = emulator.create_server('127.0.0.1', 0, in_memory=True)
    server.start()
    yield server._api._httpd.server_address[1], weather
    server.stop()


def environment(port, certificate=''):
  """What leads gcsfs here or, with a certificate, TensorFlow's client."""
  address = f'http://127.0.0.1:{port}'
  if not certificate:
    found = {'EPATH_USE_TF': 'false', 'STORAGE_EMULATOR_HOST': address}
  else:
    found = {
      'http_proxy': address,
      'https_proxy': address,
      'no_proxy': '',
      'CURL_CA_BUNDLE': str(certificate),
      'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'any',
    }
  return {**os.environ, **found}
