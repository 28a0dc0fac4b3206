// Pictures that arrive as chosen, dropped or pasted files.

/**
 * Call `onFiles` with the files of every choice, drop and paste, as `{path, file}`.
 *
 * The path is below the folder that was chosen or dropped, if it was one.
 */
export function receive({ inputs, dropSign, onFiles }) {
  for (const input of inputs) {
    input.addEventListener("change", () => {
      const files = [...input.files].map(pathAndFile);
      input.value = ""; // the same file may be chosen again
      onFiles(files);
    });
  }
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])].map(pathAndFile);
    if (files.length === 0) return;
    event.preventDefault();
    onFiles(files);
  });
  let depth = 0; // of elements that the pointer has entered
  const show = (change) => {
    depth = Math.max(0, depth + change);
    dropSign.hidden = depth === 0;
  };
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragenter", (event) => hasFiles(event) && show(1));
  document.addEventListener("dragleave", (event) => hasFiles(event) && show(-1));
  document.addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  document.addEventListener("drop", async (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    show(-depth);
    onFiles(await filesIn(event.dataTransfer));
  });
}

/** Return the dropped files, and those in dropped folders. */
async function filesIn(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.());
  if (!entries.some((entry) => entry?.isDirectory)) return [...transfer.files].map(pathAndFile);
  return (await Promise.all(entries.filter(Boolean).map(filesBelow))).flat();
}

async function filesBelow(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [{ path: entry.fullPath.slice(1), file }];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const entries = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (entries.length === 0) return found;
    for (const each of entries) found.push(...(await filesBelow(each)));
  }
}

function pathAndFile(file) {
  return { path: file.webkitRelativePath || file.name, file };
}
