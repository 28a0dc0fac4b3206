// A picture from the camera.

const QUALITY = 0.92; // of the JPEG file

/** Open the dialog when the button is pressed; call `onPicture` with the file that was taken. */
export function offerCamera({ button, dialog, video, take, close, problem, onPicture }) {
  let stream = null;

  button.addEventListener("click", async () => {
    problem.textContent = "";
    dialog.showModal();
    if (!navigator.mediaDevices) {
      problem.textContent = "Browsers give the camera only to pages from this machine or over HTTPS.";
      return;
    }
    try {
      stream = await navigator.mediaDevices.getUserMedia({
        video: { facingMode: "environment" },
      });
    } catch (error) {
      problem.textContent = `There is no picture: ${error.message}.`;
      return;
    }
    if (!dialog.open) return stop(); // closed while the browser asked
    video.srcObject = stream;
    await video.play();
    take.disabled = false;
  });

  take.addEventListener("click", () => {
    const canvas = document.createElement("canvas");
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob(
      (blob) => onPicture(new File([blob], "camera.jpg", { type: "image/jpeg" })),
      "image/jpeg",
      QUALITY,
    );
    dialog.close();
  });
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", stop);

  function stop() {
    stream?.getTracks().forEach((track) => track.stop());
    stream = video.srcObject = null;
    take.disabled = true;
  }
}
