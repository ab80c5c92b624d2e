"""llama.cpp's own server, as the package xllamacpp ships it: ``python … FILE.gguf PORT``,
and the number of its slots where it has several.
"""

import sys
import threading

import xllamacpp

parameters = xllamacpp.CommonParams()
parameters.model.path, parameters.port = sys.argv[1], int(sys.argv[2])
parameters.model_alias = {"smollm2"}  # and not the file's place
parameters.n_parallel = int((sys.argv[3:] or "1")[0])
parameters.n_ctx = 2048 * parameters.n_parallel
server = xllamacpp.Server(parameters)
threading.Event().wait()
