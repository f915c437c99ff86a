"""One of torchrun's processes: trains, and the first writes down what came out.

python -m torch.distributed.run … parallel_child.py FOLDER STEPS BATCH [compile] [rounds] [shared]
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file
from train_support import CPU, SHARED, model, settings, stream

from lilliput.train.loop import train
from lilliput.train.rounds import Rounds

folder, steps, batch = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
is_main = os.environ["RANK"] == "0"
net = model(**SHARED) if "shared" in sys.argv else model()
config = settings(steps=steps, batch_sequences=batch, eval_every=10, micro_sequences=2, compile="compile" in sys.argv)
if "rounds" in sys.argv:
    config = replace(config, rounds=Rounds(2, 0.5, 2, "loss", 0.1, "sequence"))
evaluator = (lambda given: {"norm": float(given.model.norm.weight.detach().sum())}) if is_main else (lambda _: {})
result = train(net, stream(), config, folder, device=CPU, evaluator=evaluator)
if is_main:
    save_file(net.state_dict(), folder / "weights.safetensors")
    (folder / "result.json").write_text(json.dumps(result.to_dict()))
# As the command line does: see cli/main.py.
os._exit(0)
