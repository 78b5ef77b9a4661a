"""Texts of programs in SIA's style, which call a model over the OpenAI API and leave a submission file."""

ASKS_FOR_EACH = """
import argparse, csv, json, os, pathlib
from openai import OpenAI

HOSTED_BASE_URL = "https://models.example.com/v1"
HOSTED_MODEL = "somebody/large-model"

parser = argparse.ArgumentParser()
parser.add_argument("--dataset_dir", type=pathlib.Path)
parser.add_argument("--working_dir", type=pathlib.Path)
args = parser.parse_args()
client = OpenAI(api_key=os.environ["HOSTED_API_KEY"], base_url=HOSTED_BASE_URL)
classes = json.loads((args.dataset_dir / "classes.json").read_text())
submission = args.working_dir / "submission.csv"
with open(args.dataset_dir / "test.csv", newline="") as rows, open(submission, "w", newline="") as out:
    writer = csv.writer(out)
    writer.writerow(["id", "label"])
    for row in csv.DictReader(rows):
        prompt = f"Which of {classes}? {row['text']}"
        said = client.chat.completions.create(
            model=HOSTED_MODEL, messages=[{"role": "user", "content": prompt}], max_tokens=50, temperature=0.1
        )
        writer.writerow([row["id"], said.choices[0].message.content[:3]])
"""
"""Asks the model about each row of the test file."""

LOOKS_AT_OTHERS = """
import os, pathlib, sys
looked, opened = 0, []
for process in filter(str.isdigit, os.listdir('/proc')):
    try:
        command = pathlib.Path('/proc', process, 'cmdline').read_bytes().split(b'\\0')
    except OSError:
        continue  # it has ended
    if command[0] == sys.executable.encode() and any(b'relay.py' in word for word in command):
        looked += 1
        for what in ('fd', 'mem', 'environ', 'maps'):
            try:
                path = f'/proc/{process}/{what}'
                if what == 'fd':
                    [os.open(f'{path}/{one}', os.O_WRONLY) for one in os.listdir(path)]
                else:
                    os.close(os.open(path, os.O_RDWR if what == 'mem' else os.O_RDONLY))
                opened.append(what)
            except PermissionError:
                pass
            except OSError:
                opened.append(what)
print(looked, opened)
"""
"""Prints how many relays there are, and what of them it could open."""
