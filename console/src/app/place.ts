/** Where the API is: beside the folder from which this page came, whatever stands before it. */

export const here = new URL(".", document.baseURI);
export const root = new URL("..", here);
