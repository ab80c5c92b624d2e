"""llama.cpp's own server, as the package xllamacpp ships it: ``python … FILE.gguf PORT``."""

import sys
import threading

import xllamacpp

parameters = xllamacpp.CommonParams()
parameters.model.path, parameters.port = sys.argv[1], int(sys.argv[2])
parameters.n_parallel, parameters.n_ctx = 1, 2048
server = xllamacpp.Server(parameters)
threading.Event().wait()
